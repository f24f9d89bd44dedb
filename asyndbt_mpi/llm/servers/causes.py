"""Why a server is not reached: a proxy, a certificate, or nobody at that address."""

import os
import re
import ssl
import urllib.request
from urllib.parse import urlsplit

from asyndbt_mpi.llm.servers.words import without

BY_PROXY = "NO_PROXY bypasses the proxy"


def proxy_of(url: str) -> str:
    """The proxy that requests to ``url`` go through, with the variable that says so; "" for none.

    Without what may stand before an "@": a password.
    """
    address = urlsplit(url)
    try:
        if urllib.request.proxy_bypass(address.hostname or ""):
            return ""
    except (OSError, ValueError):
        return ""
    proxies = urllib.request.getproxies()
    for scheme in (address.scheme, "all"):
        if proxies.get(scheme):
            name = f"{scheme}_proxy"
            variable = name if os.environ.get(name) else name.upper()
            found = proxies[scheme]
            try:
                host = urlsplit(found if "://" in found else f"//{found}").netloc.rpartition("@")[2]
            except ValueError:
                host = "(which is not an address)"
            return f"the proxy {host} of the environment variable {variable}"
    return ""


def of_client(error: Exception, url: str) -> str:
    """Why there can be no client for ``url``; whatever its library raises may quote a password."""
    if isinstance(error, OSError):  # ssl.SSLError is one
        return (
            "the file of certificates named by the environment variable SSL_CERT_FILE (or"
            f" SSL_CERT_DIR) cannot be read: {error.strerror or type(error).__name__}"
        )
    if isinstance(error, ImportError):
        package = "socksio" if "socksio" in str(error) else error.name or "a package"
        return (
            f"{proxy_of(url) or 'the proxy'} cannot be used without {package}:"
            f" python -m pip install {package}, or {BY_PROXY}"
        )
    if "proxy" in str(error).lower():
        return f"{proxy_of(url) or 'the proxy'} cannot be used: {type(error).__name__}"
    return f"llm.base_url = {_shown(url)!r}: is not an address"


def of_connection(error: BaseException | None, url: str) -> str | None:
    """What has to be mended before ``url`` is reached; None if it may pass by itself.

    ``error`` is what a connection failed with, and what it has as its causes.
    """
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    words = " ".join(str(each) for each in chain)
    proxy, server = proxy_of(url), _shown(url)
    if "CERTIFICATE_VERIFY_FAILED" in words or any(
        isinstance(each, ssl.SSLCertVerificationError) for each in chain
    ):
        why = re.search(r"verify failed: ([^(\[]+)", words)
        whose = f"{server} (or of {proxy})" if proxy else server
        return (
            f"the certificate of {whose} is not trusted{_reason(why)}: set the environment variable"
            " SSL_CERT_FILE to the file with the certificates of its authority"
        )
    if "WRONG_VERSION_NUMBER" in words or "record layer failure" in words:
        through = f" (or {proxy})" if proxy else ""
        return f"{server}{through} does not speak TLS: llm.base_url may have to begin with http://"
    if chain and type(chain[0]).__name__ == "ProxyError":
        return (
            f"{server} cannot be reached: {proxy or 'the proxy'} says:"
            f" {without(str(chain[0]), '', '')}; {BY_PROXY}"
        )
    if any(isinstance(each, ssl.SSLError) for each in chain):
        return f"no TLS connection with {server}: {type(chain[-1]).__name__}"
    if chain and type(chain[0]).__name__ == "ConnectError":
        why = re.search(r"\] (.+?)(?:\s\[Errno|$)", str(chain[0]))
        through = f" through {proxy} ({BY_PROXY})" if proxy else ""
        return f"cannot connect to {server}{through}{_reason(why)}: check llm.base_url"
    return None


def of_exposure(url: str) -> str:
    """Why nothing is sent to ``url``, an address without TLS, by a proxy."""
    return (
        f"requests to {_shown(url)} would go through {proxy_of(url) or 'a proxy'}, which could read"
        f" the key and the prompts: {BY_PROXY}, or use an llm.base_url with https://"
    )


def _reason(found: re.Match[str] | None) -> str:
    return f" ({found[1].strip()})" if found else ""


def _shown(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2] or url
