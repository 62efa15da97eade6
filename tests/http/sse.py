"""A client of server-sent events, as the WHATWG describes them: what a stream says, block by block."""
import json
import urllib.parse


class Block:
    """Lines up to an empty one: an event where it has data, else comments and settings."""

    def __init__(self, lines):
        self.comments = [line[1:].strip() for line in lines if line.startswith(":")]
        fields = [line.partition(":") for line in lines if not line.startswith(":")]
        self.fields = {name: value.removeprefix(" ") for name, _, value in fields}
        self.id = int(self.fields["id"]) if "id" in self.fields else None
        self.event = self.fields.get("event")
        self.text = self.fields.get("data")

    @property
    def data(self):
        return json.loads(self.text)


class Cut(AssertionError):
    """The connection was closed in the middle of a stream."""


class Stream:
    """One answer that is read as it comes."""

    def __init__(self, d, path="/v1/events", method="GET", body=None, headers=None, prepare=None,
                 **query):
        self.connection = d.connect()
        self.connection.connect()
        if prepare:
            prepare(self.connection.sock)
        if query:
            path += "?" + urllib.parse.urlencode(query)
        headers = dict(headers or {})
        if body is not None:
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        self.connection.request(method, path, body, headers)
        self.sock = self.connection.sock
        self.answer = self.connection.getresponse()
        self.status, self.headers = self.answer.status, self.answer.headers
        self.rest = b""

    def chunk(self):
        """The next chunk, b"" for the last; http.client takes a broken stream for one that ended."""
        size = self.answer.fp.readline()
        if not size.endswith(b"\n"):
            raise Cut()
        n = int(size, 16) + 2
        data = self.answer.fp.read(n)
        if len(data) < n:
            raise Cut()
        return data[:-2]

    def block(self):
        """The next block; None: the stream has come to its end."""
        while b"\n\n" not in self.rest:
            data = self.chunk()
            if not data:
                assert not self.rest, f"the stream ends inside of {self.rest}"
                return None
            self.rest += data
        block, self.rest = self.rest.split(b"\n\n", 1)
        return Block(block.decode().split("\n"))

    def event(self):
        """The next block with data; None: the end."""
        while (block := self.block()) and block.text is None:
            pass
        return block

    def events(self, n):
        found = []
        while len(found) < n:
            event = self.event()
            assert event, f"the stream ended after {len(found)} of {n} events"
            found.append(event)
        return found

    def until(self, wanted):
        """Events up to the first of which wanted(event) is true, with that one."""
        found = self.events(1)
        while not wanted(found[-1]):
            found += self.events(1)
        return found

    def close(self):
        self.answer.close()
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Completion:
    """What a streamed completion comes to: the texts put together, as an answer that is whole."""

    def __init__(self, d, prompt, **body):
        self.n = {}       # pieces of each choice
        self.choices = {}
        self.usage = self.error = None
        self.whole = False
        with Stream(d, "/v1/completions", "POST", {"prompt": prompt, "stream": True, **body}) as s:
            self.status, self.headers = s.status, s.headers
            assert s.status == 200, s.answer.read()
            ids = set()
            while block := s.block():
                assert not self.whole and not self.error, "something follows the end"
                if block.text == "[DONE]":
                    self.whole = True
                elif "error" in block.data:
                    self.error = block.data["error"]
                else:
                    ids.add((block.data["id"], block.data["version"], block.data["created"]))
                    self.take(block.data)
            assert len(ids) == 1, ids
            self.version = ids.pop()[1]

    def take(self, chunk):
        assert chunk["object"] == "text_completion", chunk
        for piece in chunk["choices"]:
            choice = self.choices.setdefault(piece["index"], {"index": piece["index"], "text": ""})
            assert choice.get("finish_reason") is None, "a piece after the last"
            choice["text"] += piece["text"]
            choice["finish_reason"] = piece["finish_reason"]
            choice["logprobs"] = piece["logprobs"]
            self.n[piece["index"]] = self.n.get(piece["index"], 0) + 1
        if not chunk["choices"]:
            self.usage = chunk["usage"]

    @property
    def all(self):
        """As the answer without `stream` has them."""
        return [self.choices[i] for i in sorted(self.choices)]
