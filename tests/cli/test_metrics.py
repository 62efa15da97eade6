"""What GET /metrics says of the real daemon, against what its API says of the same things."""
import math
import time

import harness
from harness import main
from lab import DEMO, demo_facts
from prometheus import scrape
from test_serve import Serving, say

FACTS = demo_facts("heldout.ndjson", 20)


class Metrics(Serving):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.use(DEMO / "editor.safetensors")
        harness.MODEL_ARGS += ["--preserve-weight", "0"]

    def test_a_life(self):
        d = self.serve()
        job = d.apply(*FACTS)
        say(d, prompts=[f["prompt"] for f in FACTS[:4]])
        items = [{"prompt": f["prompt"], "target": f["target"]} for f in FACTS[:4]]
        scores = d.call("POST", "/v1/scores", {"items": items}).json["data"]
        now = harness.wait_until(lambda: self.walked(d))
        self.result(now, job["result"])
        self.version(d, now)
        self.status(d, now)
        self.assertEqual(now["malmend_tokens_scored_total"].value(),
                         sum(len(score["tokens"]) for score in scores))
        self.assertGreater(now["malmend_tokens_generated_total"].value(), 0)
        self.assertEqual(now["malmend_scrub_checked_facts_total"].value(), len(FACTS))
        for work in "changes", "reads", "scrub":
            self.assertGreater(now["malmend_worker_busy_seconds_total"].value(work=work), 0, work)
        spent = now["malmend_worker_busy_seconds_total"].total()
        self.assertLess(spent, time.time() - now["malmend_start_time_seconds"].value())

    def walked(self, d):
        now = scrape(d)
        walked = now["malmend_scrub_passes_total"].value()
        return now if walked and not now["malmend_batch_running"].value() else None

    def result(self, now, result):
        """What the job says of itself is what was added to the counters, it being the only one."""
        self.assertEqual(now["malmend_facts_edited_total"].value(), result["facts"])
        self.assertEqual(now["malmend_facts_wrong_total"].value(), len(result["wrong"]))
        self.assertEqual(now["malmend_repair_rounds_total"].value(), result["rounds"])
        for stage, seconds in result["seconds"].items():
            counted = now["malmend_stage_seconds_total"].value(stage=stage)
            self.assertTrue(math.isclose(counted, seconds, abs_tol=1e-6), (stage, counted, seconds))
        for stage in "forward", "solve", "verify", "persist":
            self.assertGreater(now["malmend_stage_seconds_total"].value(stage=stage), 0, stage)
        for mode in "decoded", "teacher_forced":
            for measure, share in result["measures"][mode].items():
                told = now["malmend_quality_ratio"].value(mode=mode, measure=measure)
                self.assertEqual(told, share, (mode, measure))

    def version(self, d, now):
        version = d.get("/v1/versions/1").json
        self.assertEqual(now["malmend_live_version"].value(), 1)
        self.assertEqual(now["malmend_delta_bytes"].value(), version["delta"]["bytes"])
        self.assertEqual(now["malmend_agreement_ratio"].value(), version["measures"]["agreement"])
        for module in version["modules"]:
            for norm in "shift_norm", "weight_norm":
                told = now["malmend_module_" + norm].value(module=module["name"])
                self.assertTrue(math.isclose(told, module[norm], rel_tol=1e-12))

    def status(self, d, now):
        status = d.get("/v1/status").json
        model = status["model"]
        info, = now["malmend_build_info"].labels()
        self.assertEqual(info, {"version": status["version"], "model": model["name"],
                                "architecture": model["architecture"], "device": model["device"],
                                "editor": status["editor"]["method"],
                                "update": status["editor"]["update"]})
        self.assertEqual(now["malmend_model_parameters"].value(), model["parameters"])
        self.assertEqual(now["malmend_device_bytes"].value(), status["memory"]["device_bytes"])
        self.assertEqual(now["malmend_joint_bytes"].value(), status["joint"]["bytes"])
        self.assertEqual(now["malmend_joint_facts"].value(), status["joint"]["facts"])
        self.assertEqual(now["malmend_scrub_facts"].value(), status["scrub"]["total"])


if __name__ == "__main__":
    main()
