"""What Debian does not package comes from the package index, with the versions of requirements.txt,
into a virtual environment in the build directory. It is made once, and anew when the file changes."""
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

REQUIREMENTS = pathlib.Path(__file__).with_name("requirements.txt")


def make(path):
    shutil.rmtree(path, ignore_errors=True)
    python = path / "bin/python3"
    for command in ([sys.executable, "-m", "venv", path],
                    [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                     "--no-deps", "--only-binary", ":all:", "--requirement", REQUIREMENTS]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = (done.stdout + done.stderr).strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"{command} ended with {done.returncode}")
    (path / "whole").touch()


def enter():
    """Goes on in that environment, with the same arguments. Comes back where the script runs in it
    (None), or with why there is none; where CI is set that is a failure."""
    about = REQUIREMENTS.read_bytes() + sys.version.encode()
    build = pathlib.Path(os.environ["MALMEND_TEST_PACKAGES"])
    path = build / ("venv-" + hashlib.sha256(about).hexdigest()[:12])
    if pathlib.Path(sys.prefix) == path:
        return None
    build.mkdir(exist_ok=True)
    with open(build / "venv.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if not (path / "whole").exists():
                make(path)
        except (OSError, RuntimeError) as error:
            if os.environ.get("CI"):
                raise
            return f"no virtual environment: {error}"
    python = path / "bin/python3"
    os.execv(python, [python, *sys.argv])  # it finds the environment by its own name
