"""Several clients at once."""
import threading

import changes
import events
import reads
import rights
import slow
from lives import Gone
from trouble import Troubled

ALONE = (changes.drop_again, changes.teach_again, changes.verify_meanwhile, changes.back_up, rights.rotate)
PARTS = {operation: weight for subject in (changes, reads, events, rights, slow)
         for operation, weight in subject.OPERATIONS.items() if operation not in ALONE}


def at_once(calls):
    """What each gives; raised is what says most."""
    given, raised = [None] * len(calls), []

    def run(i):
        try:
            given[i] = calls[i]()
        except Exception as error:  # the world's to raise
            raised.append(error)
    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in sorted(raised, key=lambda e: isinstance(e, (Gone, Troubled)) + isinstance(e, Troubled)):
        raise error
    return given


def crowd(w):
    chosen = w.rng.choices(list(PARTS), PARTS.values(), k=w.rng.randint(2, 6))
    w.note("at once", *(operation.__name__ for operation in chosen))
    at_once([lambda operation=operation: operation(w) for operation in chosen])


def one_key(w):
    """A request with its key, sent by several at once, is one."""
    taught = changes.facts(w, w.rng.choice([1, 3]))
    ask = {"kind": "edit", "method": "POST", "path": "/v1/edits", "query": None, "type": "application/json",
           "body": changes.json.dumps({"facts": taught}), "key": changes.key(w, 1), "facts": taught, "gate": {}}
    w.model.open.append(ask)
    answers = at_once([lambda: w.send(ask)] * w.rng.randint(2, 4))
    w.model.close(ask)
    taken = {answer.body for answer in answers if answer.status == 202}
    assert len(taken) <= 1, taken
    for answer in answers:
        assert answer.status == 202 or changes.full(w, answer, len(taught)), answer.body
    for answer in sorted(answers, key=lambda answer: answer.status)[:1]:
        w.book(ask, answer)


OPERATIONS = {crowd: 5, one_key: 2}
