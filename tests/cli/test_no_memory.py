"""The real daemon without memory, from its start and through an edit (../http/faults.py)."""
from broken import Broken
from harness import main
from no_memory import NoMemory


class Real(Broken):
    def test_first_start(self):
        self.check_points(NoMemory("first start", armed=True), 8)

    def test_next_start(self):
        self.check_points(NoMemory("next start", self.used, armed=True), 8)

    def test_edit(self):
        self.check_points(NoMemory("edit", self.used), 8)


if __name__ == "__main__":
    main()
