"""Without memory: the n-th allocation fails (no_memory.c)."""
import os
import re

from faults import Kind


class NoMemory(Kind):
    says = re.compile("memory", re.I)

    def env(self, point, n):
        return {"LD_PRELOAD": os.environ["MALMEND_NO_MEMORY_LIBRARY"],
                "MALMEND_NO_MEMORY_AT": str(n), "MALMEND_NO_MEMORY_TOLD": str(point.told),
                **({"MALMEND_NO_MEMORY_ARMED": "1"} if self.armed else {}),
                "OMP_WAIT_POLICY": "passive"}  # else the program executes itself again
