"""Values of options that no file or device could make right: exit code 2, before anything is opened."""
import json

from harness import main
from lab import Lab, each, malmend

COMMANDS = [json.loads(line) for line in malmend("--help=json").stdout.splitlines()[1:]]

# Of each kind of value, what is none; \xff: not UTF-8.
BAD = {"int": ["", "x", "1.5", " 1", "1x", "9" * 30], "real": ["", "x", "nan", "1e999", "0x"],
       "bytes": ["", "x", "-1", "1.5", "9e99", "1XB"], "duration": ["", "x", "-1", "1y"],
       "flag": ["", "x", "2"], "choice": ["", "x", "\n"], "text": [""]}

# Of texts that are no paths, by what --help calls them; None: any text will do.
TEXTS = {"DIR": [], "FILE": [], "PATH": [],
         "ADDR": ["x", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "unix:", "unix:/" + 200 * "x",
                  "localhost", "example.org:80", "[::1:80"],
         "LIST": [",", ", "], "N|LO:HI": ["x", "0", "8:4", "1:2:3", "4:", ":4"], "JSON": ["x", "[1]", "{"],
         "TEXT": []}

# The same word is something else elsewhere.
NAMES = {"device": ["x", "cuda", "cuda:x", "cuda:-1", "gpu", "cpu:fp8", "cuda:00000"],
         "name": ["a b", "local", 65 * "x", "\xff"]}
ANY = {("complete", "prompt")}


def bad_values(command, option):
    if (command, option["name"]) in ANY:
        return []
    bad = list(BAD[option["kind"]])
    if option["kind"] == "text":
        name = option["metavar"] == "NAME"
        bad += NAMES[option["name"]] if name else TEXTS[option["metavar"]]
    return bad


def fill(table, option, value):
    """A command line with this value of the option; whatever else is needed names nothing."""
    words, last = [], []
    for other in table["options"]:
        said = value if other is option else (other["choices"] or ["1"])[-1]
        if not other["required"] and other is not option:
            continue
        if other["positional"]:
            last.append(said)
        else:
            words.append(f"--{other['name']}={said}")
    if option["name"] == "hyper":  # a method that has numbers
        words = [word.replace("--method=memit", "--method=ft") for word in words]
    return [table["command"], *words, "--", *last]


@each([(table["command"].replace("-", "_"), table) for table in COMMANDS])
class Values(Lab):
    def check(self, table):
        for option in table["options"]:
            shown = option["metavar"] if option["positional"] else "--" + option["name"]
            for value in bad_values(table["command"], option):
                args = fill(table, option, value)
                said = self.misused(*args)
                self.assertTrue(said.startswith(f"malmend {table['command']}: {shown}: "), (args, said))

    def test_elsewhere(self):
        """It is said where such a value is from."""
        args = ["serve", "--model", "none", "--db", self.dir / "db"]
        config = self.write("config.json", {"listen": "everywhere"})
        self.misused(*args, "--config", config, says=[f"{config}: 'listen': ", "ADDRESS:PORT"])
        self.misused(*args, env={"MALMEND_DEVICE": "tpu"}, says=["MALMEND_DEVICE: ", "cuda:N"])
        self.misused(*args, "--config", self.write("empty.json", {"tokens": ""}),
                     says=["'tokens': the text is empty, it takes FILE"])

    def test_empty_prompt(self):
        """Is a text like others."""
        done = malmend("complete", "--model", self.dir / "none", "--prompt", "")
        self.assertEqual(done.returncode, 1, done.stderr)

    def test_one_line(self):
        """A newline or an escape sequence of a path does not reach the terminal."""
        self.fails("complete", "--model", self.dir / "a\n\x1b[2Jb", "--prompt", "x", says=["a??[2Jb"])

    def test_not_there(self):
        """What is well said and not there is no wrong usage."""
        self.fails("edit", "--model", self.dir / "none", "--facts", self.dir / "facts",
                   says=[self.dir / "facts"])
        self.fails("complete", "--model", self.dir / "none", "--prompt", "x", "--device", "cuda:9999")


if __name__ == "__main__":
    main()
