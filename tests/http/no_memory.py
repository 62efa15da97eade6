"""Without memory: the n-th allocation fails (no_memory.c)."""
import os
import re

from faults import Kind


SAYS = re.compile("memory", re.I)


def failing(told, at):
    """The environment of a daemon without memory for that allocation: no_memory.c."""
    return {"LD_PRELOAD": os.environ["MALMEND_NO_MEMORY_LIBRARY"], "MALMEND_NO_MEMORY_AT": str(at),
            "MALMEND_NO_MEMORY_TOLD": str(told),
            "OMP_WAIT_POLICY": "passive"}  # else the program executes itself again


class NoMemory(Kind):
    says = SAYS

    def env(self, point, n):
        return {**failing(point.told, n), **({"MALMEND_NO_MEMORY_ARMED": "1"} if self.armed else {})}
