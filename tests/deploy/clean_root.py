"""A root with nothing but what Debian has in every system and what a package says it depends on,
made of the packages installed here, so without a network."""
import os
import re
import shutil
import subprocess
from pathlib import Path

FIELDS = "${binary:Package}\t${Package}\t${Essential}\t${Pre-Depends}, ${Depends}\t${Provides}\n"


class Installed:
    """What dpkg knows here."""

    def __init__(self):
        out = subprocess.run(["dpkg-query", "-W", "-f", FIELDS], capture_output=True, text=True,
                             check=True).stdout
        self.depends, self.full, self.provided, self.essential = {}, {}, {}, []
        for line in out.splitlines():
            full, name, essential, depends, provides = line.split("\t")
            self.full[name], self.depends[name] = full, depends
            for virtual in re.findall(r"[a-z0-9][a-z0-9+.-]+", re.sub(r"\(.*?\)", "", provides)):
                self.provided.setdefault(virtual, name)
            if essential == "yes":
                self.essential.append(name)

    def choose(self, alternatives):
        """The first of "a (>= 1) | b" that is installed; None: none is."""
        for one in alternatives.split("|"):
            name = re.match(r"\s*([a-z0-9+.-]*)", one).group(1)
            if name in self.depends:
                return name
            if name in self.provided:
                return self.provided[name]
        return None

    def closure(self, depends):
        """All that these need, and what is missing."""
        todo, found, missing = [*self.essential], set(), []
        for part in depends.split(","):
            name = self.choose(part)
            (todo.append(name) if name else missing.append(part.strip()))
        while todo:
            name = todo.pop()
            if name in found:
                continue
            found.add(name)
            todo += filter(None, (self.choose(part) for part in self.depends[name].split(",")
                                  if part.strip()))
        return found, missing


def copy(path, root):
    """A file, link or folder of this system to the same place."""
    to = root / path.lstrip("/")
    if os.path.islink(path):
        if not os.path.lexists(to):
            os.symlink(os.readlink(path), to)
    elif os.path.isdir(path):
        to.mkdir(exist_ok=True, parents=True)
    elif os.path.isfile(path) and not to.exists():
        shutil.copy2(path, to)


def copy_alternatives(root):
    """Links that packages made while they were configured, where what they lead to is here."""
    for entry in Path("/var/lib/dpkg/alternatives").iterdir():
        head = entry.read_text().split("\n\n")[0].splitlines()
        names = [(entry.name, head[1])] + list(zip(head[2::2], head[3::2]))
        for name, link in names:
            target = f"/etc/alternatives/{name}"
            if not os.path.islink(target) or not (root / os.readlink(target).lstrip("/")).exists():
                continue
            (root / link.lstrip("/")).parent.mkdir(exist_ok=True, parents=True)
            copy(target, root)
            copy(link, root)


def make_root(root, depends):
    """Fills the folder; the dependencies that are not installed here."""
    installed = Installed()
    packages, missing = installed.closure(depends)
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink(f"/{name}"):
            (root / "usr" / name).mkdir(parents=True, exist_ok=True)
            os.symlink(f"usr/{name}", root / name)
    for name in ("proc", "sys", "dev", "tmp", "run", "etc/alternatives", "var/lib/dpkg/info",
                 "var/lib/dpkg/updates", "var/lib/dpkg/triggers"):
        (root / name).mkdir(parents=True, exist_ok=True)
    full = [installed.full[name] for name in sorted(packages)]
    files = subprocess.run(["dpkg", "-L", *full], capture_output=True, text=True, check=True).stdout
    for path in filter(lambda p: p.startswith("/") and p != "/.", files.splitlines()):
        if not path.startswith(("/usr/share/doc/", "/usr/share/locale/", "/usr/share/man/")):
            copy(path, root)
    copy_alternatives(root)
    for name in full:
        for path in Path("/var/lib/dpkg/info").glob(name + ".*"):
            copy(str(path), root)
    status = subprocess.run(["dpkg-query", "-s", *full], capture_output=True, text=True, check=True)
    (root / "var/lib/dpkg/status").write_text(status.stdout + "\n")
    for name in ("available", "diversions", "statoverride"):
        (root / "var/lib/dpkg" / name).write_text("")
    for name in ("passwd", "group"):
        shutil.copy(f"/usr/share/base-passwd/{name}.master", root / "etc" / name)
    subprocess.run(["mknod", "-m", "666", root / "dev/null", "c", "1", "3"], check=True)
    subprocess.run(["chroot", root, "ldconfig"], check=True)
    return missing
