"""malmend token: what it prints is what a daemon takes, and what it refuses."""
import hashlib

import harness
from harness import Daemon, main
from lab import MODEL, Lab, malmend

ROLES = ("read", "infer", "edit", "admin")


def line(name, role, token):
    return f"{name} {role} {hashlib.sha256(token.encode()).hexdigest()}"


class Token(Lab):
    def test_printed(self):
        token, text, end = self.ok("token", "ops", "admin").split("\n")
        self.assertEqual((text, end), (line("ops", "admin", token), ""))
        self.assertRegex(token, r"^mal_[A-Za-z0-9_-]{43}$")
        made = [self.json("token", role + "er", role) for role in ROLES]
        self.assertEqual(len({m["token"] for m in made} | {token}), 1 + len(ROLES))
        for m in made:
            self.assertEqual(sorted(m), ["line", "name", "role", "token"])
            self.assertEqual(m["line"], line(m["name"], m["role"], m["token"]))

        file = self.write("tokens", "\n".join(["# ours", text] + [m["line"] for m in made]))
        file.chmod(0o600)
        harness.MODEL_ARGS = ["--model", str(MODEL)]
        d = Daemon("--tokens", str(file))
        self.addCleanup(d.close)
        for shown in (token, *(m["token"] for m in made)):
            d.headers = {"Authorization": "Bearer " + shown}
            self.assertEqual(d.get("/v1/jobs").status, 200)
        d.headers = {"Authorization": "Bearer " + token + "x"}
        self.assertEqual(d.get("/v1/jobs").status, 401)

    def test_refused(self):
        for name in ("local", "a b", "", "uid:0", "x" * 65):
            self.misused("token", name, "read", says=["NAME: "])
        self.assertEqual(malmend("token", "x" * 64, "read").returncode, 0)
        for args in (["ci", "boss"], ["ci"], [], ["ci", "read", "more"]):
            self.assertEqual(malmend("token", *args).returncode, 2)


if __name__ == "__main__":
    main()
