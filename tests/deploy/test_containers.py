"""The container file and the Kubernetes example: what they say of the daemon holds for this binary, and
of each other. No engine runs them here."""
import json
import os
import re
import shlex
from pathlib import Path

import yaml

import harness
from harness import Daemon, main
from lab import MODEL, Lab, malmend

ROOT = Path(os.environ["MAL_SOURCE_ROOT"])
DEPLOY = ROOT / "deploy"
OPTIONS = {o["name"] for o in json.loads(malmend("serve", "--help=json").stdout)["options"]} | {"config"}
PATHS = set(yaml.safe_load((ROOT / "proto/openapi.yaml").read_text())["paths"])


def instructions(path):
    """[(word, rest)] of the last stage, comments and line ends joined away."""
    text = re.sub(r"(?m)^#.*\n", "", path.read_text()).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    stages = [i for i, line in enumerate(lines) if line[0] == "FROM"]
    return lines[:stages[-1]], lines[stages[-1]:]


BUILD, IMAGE = instructions(DEPLOY / "Containerfile")


def of(word, lines=IMAGE):
    return [rest for name, rest in lines if name == word]


def options(args):
    """{option: value} of a command line."""
    assert all(a.startswith("--") for a in args[::2]) and len(args) % 2 == 0, args
    return {name[2:]: value for name, value in zip(args[::2], args[1::2])}


ENTRY = json.loads(of("ENTRYPOINT")[0])
COMMAND = json.loads(of("CMD")[0])


class Image(Lab):
    def test_command(self):
        """The options are this binary's, and start a daemon that others reach."""
        self.assertEqual(ENTRY[:2], ["malmend", "serve"])
        given = options(ENTRY[2:] + COMMAND)
        self.assertEqual(set(given) - OPTIONS, set())
        self.assertEqual(given["listen"], "0.0.0.0:" + of("EXPOSE")[0])

    def test_health(self):
        """Whether it is alive, not whether it is ready, on the port that is listened on."""
        health = of("HEALTHCHECK")[0]
        url = json.loads(health.split("CMD", 1)[1])[-1]
        port, path = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/.*)", url).groups()
        self.assertEqual((port, path), (of("EXPOSE")[0], "/livez"))
        self.assertIn(path, PATHS)
        self.assertRegex(" ".join(of("RUN")), r"\bcurl\b")

    def test_not_root(self):
        self.assertRegex(of("USER")[-1], r"^[1-9]\d+:[1-9]\d+$")
        uid = of("USER")[-1].split(":")[0]
        self.assertIn(f"--uid {uid} ", " ".join(of("RUN")))

    def test_copies_what_is_built(self):
        """The folders that the build stages, and nothing that is not there."""
        copied = {word for rest in of("COPY", BUILD) for word in shlex.split(rest)[:-1]}
        for name in copied:
            self.assertTrue((ROOT / name).exists(), name)
        staged = re.search(r"for part in (.*); do", (DEPLOY / "build-deb.sh").read_text()).group(1)
        self.assertEqual(set(staged.split()) - copied, set())


class Kubernetes(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.docs = {}
        for path in (DEPLOY / "kubernetes").glob("*.yaml"):
            for doc in yaml.safe_load_all(path.read_text()):
                cls.docs[doc["kind"]] = doc
        cls.pod = cls.docs["StatefulSet"]["spec"]["template"]["spec"]
        cls.container = cls.pod["containers"][0]
        cls.arguments = options(ENTRY[2:]) | options(cls.container["args"])

    def test_one_writer(self):
        self.assertEqual(self.docs["StatefulSet"]["spec"]["replicas"], 1)
        claim = self.docs["StatefulSet"]["spec"]["volumeClaimTemplates"][0]["spec"]
        self.assertEqual(claim["accessModes"], ["ReadWriteOncePod"])
        grace = self.pod["terminationGracePeriodSeconds"]
        self.assertGreater(grace, 3, "the daemon stops within three seconds")

    def test_ports(self):
        """One number, by one name."""
        port = self.container["ports"][0]
        self.assertEqual(self.arguments["listen"], f"0.0.0.0:{port['containerPort']}")
        self.assertEqual(self.docs["Service"]["spec"]["ports"][0]["targetPort"], port["name"])
        self.assertEqual(self.docs["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"], port["name"])
        self.assertEqual(self.docs["ServiceMonitor"]["spec"]["endpoints"][0]["port"],
                         self.docs["Service"]["spec"]["ports"][0]["name"])

    def test_selectors(self):
        labels = self.docs["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
        for kind, path in (("StatefulSet", ("selector", "matchLabels")), ("Service", ("selector",)),
                           ("NetworkPolicy", ("podSelector", "matchLabels"))):
            found = self.docs[kind]["spec"]
            for key in path:
                found = found[key]
            self.assertEqual(found, labels, kind)
        monitored = self.docs["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
        self.assertEqual(monitored, self.docs["Service"]["metadata"]["labels"])
        files = {p.name for p in (DEPLOY / "kubernetes").glob("*.yaml")}
        listed = set(self.docs["Kustomization"]["resources"])
        self.assertEqual(files - listed, {"kustomization.yaml", "servicemonitor.yaml"})

    def test_user(self):
        """The image's, who may write its volumes and nothing else."""
        context = self.pod["securityContext"]
        self.assertTrue(context["runAsNonRoot"])
        self.assertEqual(of("USER")[-1], f"{context['runAsUser']}:{context['runAsGroup']}")
        self.assertEqual(context["fsGroup"], context["runAsGroup"])
        own = self.container["securityContext"]
        self.assertTrue(own["readOnlyRootFilesystem"])
        self.assertFalse(own["allowPrivilegeEscalation"])
        self.assertEqual(own["capabilities"], {"drop": ["ALL"]})

    def test_volumes(self):
        """All that the options name is mounted; what is mounted is there."""
        mounts = {m["name"]: m["mountPath"] for m in self.container["volumeMounts"]}
        there = {v["name"] for v in self.pod["volumes"]}
        there |= {c["metadata"]["name"] for c in self.docs["StatefulSet"]["spec"]["volumeClaimTemplates"]}
        self.assertEqual(set(mounts), there)
        config = json.loads((DEPLOY / "malmend.json").read_text())
        named = {**config, **self.arguments}
        for option in ("model", "db", "tokens"):
            self.assertTrue(any(named[option].startswith(path) for path in mounts.values()), named[option])
        secret = next(v["secret"] for v in self.pod["volumes"] if "secret" in v)
        self.assertEqual(secret["secretName"], self.docs["Secret"]["metadata"]["name"])
        self.assertIn(os.path.basename(named["tokens"]), self.docs["Secret"]["stringData"])
        self.assertEqual(secret["defaultMode"] & 0o022, 0, "nobody else may write it")

    def test_no_links(self):
        """What Kubernetes puts into the environment for a service is named like options."""
        self.assertFalse(self.pod["enableServiceLinks"])

    def test_runs(self):
        """The pod's command line, with paths of this machine: its probes get what they ask for."""
        self.assertEqual(set(self.arguments) - OPTIONS, set())
        tokens = self.write("tokens", self.docs["Secret"]["stringData"]["tokens"])
        tokens.chmod(0o440)
        here = {"model": MODEL, "tokens": tokens, "config": DEPLOY / "malmend.json", "listen": None}
        harness.MODEL_ARGS = [str(word) for name, value in self.arguments.items() if here.get(name, value)
                              for word in ("--" + name, here.get(name, value))]
        d = Daemon(listen="0.0.0.0:0")
        self.addCleanup(d.close)
        d.address = d.address.replace("0.0.0.0", "127.0.0.1")
        for probe in ("livenessProbe", "readinessProbe"):
            asked = self.container[probe]["httpGet"]
            self.assertEqual(asked["port"], self.container["ports"][0]["name"])
            self.assertIn(asked["path"], PATHS)
            answer = d.call("GET", asked["path"], headers={"Host": "10.1.2.3:8780"})
            self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(d.get("/v1/status").status, 401)

    def test_metrics(self):
        if "/metrics" not in PATHS:
            self.skipTest("this daemon has no metrics")
        path = self.docs["ServiceMonitor"]["spec"]["endpoints"][0]["path"]
        self.assertIn(path, PATHS)


if __name__ == "__main__":
    main()
