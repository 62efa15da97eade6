"""What schemathesis cannot know of the daemon."""
import io
import json
import re
import struct
import tarfile

import schemathesis
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.specs.openapi.checks import AcceptedNegativeData

# Valid requests may be refused for what no schema can say: by their length, by what is there, by what
# other requests were. Each such answer is one of these.
REFUSALS = [
    (414, "the address is longer than 8 KiB"),
    (416, r"the range begins behind the end, of \d+ bytes"),
    (422, "this Idempotency-Key was used for another request"),
    (422, "(query parameter '(after|job|version)': )?there is no (fact|job|version|model) .*"),
    (422, r"query parameter 'after': there is no (row )?'.*'"),
    (422, "there is no suite '.*'; there are towns"),
    (422, r"(prompt and target have|the prompt has) \d+ tokens, the (model's )?context .*"),
    (422, r"/facts/\d+/target contradicts /facts/\d+: the same prompt with another target"),
    (422, r"/facts/\d+/id: /facts/\d+ has the same id"),
    (422, r"/items/\d+/target is missing; only a classifier needs none"),
]


@schemathesis.hook
def filter_failure(context, failure, case, response):
    if isinstance(failure, AcceptedNegativeData) and case.operation.path == "/v1/events":
        # That headers nobody knows are ignored is taken as right everywhere but here, where a header that
        # is known has a number.
        return "in header - object with unexpected properties" not in failure.message
    if isinstance(failure, RejectedPositiveData):
        detail = response.json()["detail"]
        return not any(response.status_code == status and re.fullmatch(words, detail, re.S)
                       for status, words in REFUSALS)
    return True


@schemathesis.hook
def before_call(context, case, kwargs):
    """An event stream begins with what has happened, so that there is something to look at."""
    follows = case.operation.path == "/v1/events" and case.meta.generation.mode.is_positive
    if follows and "Last-Event-ID" not in case.headers:
        case.headers["Last-Event-ID"] = "0"


@schemathesis.deserializer("application/octet-stream")
def safetensors(context, response):
    if response.status_code == 206:
        return {}
    n, = struct.unpack_from("<Q", response.content)
    header = json.loads(response.content[8:8 + n])
    ends = [end for name, tensor in header.items() if name != "__metadata__"
            for end in tensor["data_offsets"][1:]]
    assert 8 + n + max(ends) == len(response.content)
    return header


@schemathesis.deserializer("application/x-tar")
def adapter(context, response):
    if response.status_code == 206:
        return {}
    with tarfile.open(fileobj=io.BytesIO(response.content)) as tar:
        assert tar.getnames() == ["adapter_config.json", "adapter_model.safetensors"]
    return {}
