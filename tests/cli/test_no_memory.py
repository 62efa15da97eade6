"""The real daemon without memory, from its start and through an edit (../http/faults.py)."""
from broken import Broken
from everything import Everything, Pages
from harness import main
from no_memory import NoMemory


class Real(Broken):
    def test_first_start(self):
        self.check_points(NoMemory("first start", armed=True), 8)

    def test_next_start(self):
        self.check_points(NoMemory("next start", self.used, armed=True), 8)

    def test_edit(self):
        self.check_points(NoMemory("edit", self.used), 8)

    def test_everything(self):
        self.check_points(Everything("everything", self.dir, self.used), 6)

    def test_pages(self):
        self.check_points(Pages("pages", self.used), 3)


if __name__ == "__main__":
    main()
