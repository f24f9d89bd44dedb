"""Whether a model server accepts the key and answers; this check costs nothing."""

from asyndbt_mpi.doctor.findings import Finding, ok, problem, warning
from asyndbt_mpi.inputs.sections import Llm
from asyndbt_mpi.llm.base import ModelError
from asyndbt_mpi.llm.servers.key import read_key

SECONDS = 10.0
NAMED = 5
"""How many of a server's models are named."""


def ask_server(llm: Llm) -> list[Finding]:
    """One request, for the names of the models; no completion is requested."""
    try:
        read_key(llm.base_url, llm.key_variable)
    except ModelError as error:
        return [problem("model", str(error))]
    from asyndbt_mpi.llm.servers.client import Client, Endpoint
    from asyndbt_mpi.llm.servers.errors import has_version, of_address
    from asyndbt_mpi.llm.servers.pace import Pace
    from asyndbt_mpi.llm.servers.served import is_called

    timeout = min(llm.timeout, SECONDS)
    endpoint = Endpoint(llm.model, llm.base_url, llm.key_variable, llm.api, timeout, attempts=1)
    try:
        client = Client(endpoint, Pace(0.0))
        offered = client.models()
    except ModelError as error:
        hint = "check that the server runs and that every node can reach it (by a proxy, too)"
        return [problem("model", str(error), hint)]
    if offered is None:
        text = f"{client.server} answers, but does not list its models"
        if has_version(llm.base_url):
            return [ok("model", text)]
        return [warning("model", text, of_address(llm.base_url))]
    known = [client.shown(str(each["id"]), "") for each in offered]
    if any(is_called(each, llm.model) for each in offered):
        return [ok("model", f"{client.server} answers, and has {llm.model}")]
    names = ", ".join(known[:NAMED]) + ", ..." * (len(known) > NAMED)
    text = f"{client.server} answers, but its list has no {llm.model} (it has: {names or 'none'})"
    return [warning("model", text, "check llm.model")]
