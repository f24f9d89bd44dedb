"""Install a wheel and an sdist, each into an empty environment, and test them without the clone.

    python -m tests.smoke dist

The other packages are those of this interpreter, seen through a path; so nothing is downloaded.
The tests are those in the sdist.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from pathlib import Path
from zipfile import ZipFile

PACKAGE = Path(__file__).parents[2] / "asyndbt_mpi"


def one(folder: Path, pattern: str) -> Path:
    """The only file of that name."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        sys.exit(f"{folder}: {len(found)} files {pattern}, not 1")
    return found[0]


def check_contents(archive: Path, names: list[str]) -> None:
    """Check that every file of the package is there, those behind links too."""
    there = {name[name.find("asyndbt_mpi/") :] for name in names if "asyndbt_mpi/" in name}
    files = {
        str(path.relative_to(PACKAGE.parent))
        for place, _, names in os.walk(PACKAGE, followlinks=True)
        for path in (Path(place, name) for name in names)
        if "__pycache__" not in path.parts
    }
    if missing := sorted(files - there):
        sys.exit(f"{archive.name} lacks {', '.join(missing)}")


def test(archive: Path, sdist: Path) -> None:
    """Install the archive, and run the sdist's tests against it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        venv.create(place / "venv", with_pip=False, symlinks=True)
        python = place / "venv/bin/python"
        purelib = f"lib/python{sysconfig.get_python_version()}/site-packages"
        (place / "venv" / purelib / "others.pth").write_text(sysconfig.get_path("purelib"))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        install = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--ignore-installed")
        pip = (sys.executable, "-m", "pip", "--python", str(python))
        subprocess.run([*pip, *install, str(archive)], check=True, cwd=place, env=environment)
        with tarfile.open(sdist) as opened:
            opened.extractall(place, filter="data")
        # Without the sources beside them, which would be imported in place of what is installed.
        unpacked, tests = one(place, "asyndbt_mpi-*"), place / "tests"
        (unpacked / "tests").rename(tests)
        (unpacked / "pyproject.toml").rename(place / "pyproject.toml")
        found = subprocess.run(
            [python, "-c", "import asyndbt_mpi; print(asyndbt_mpi.__file__)"],
            check=True, cwd=place, env=environment, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert Path(found).is_relative_to(place / "venv"), found
        print(f"{archive.name}, installed into an empty environment:", flush=True)
        pytest = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/smoke")
        if code := subprocess.run(pytest, cwd=place, env=environment).returncode:
            sys.exit(code)


def main() -> None:
    """Test what is in the folder."""
    folder = Path(sys.argv[1]).resolve()
    wheel, sdist = one(folder, "*.whl"), one(folder, "*.tar.gz")
    with ZipFile(wheel) as opened:
        check_contents(wheel, opened.namelist())
    with tarfile.open(sdist) as packed:
        check_contents(sdist, packed.getnames())
    for archive in (wheel, sdist):
        test(archive, sdist)


if __name__ == "__main__":
    main()
