"""Loads files in a separate process, with random pauses: ``python tests/loader.py SETTINGS_JSON SEED``.

Each line of its input is one run of the bronze tables; it answers each with what the run said is wrong.
"""

import json
import random
import sys
import time

from lakehouse_lib import config
from lakehouse_lib.engines import session
from lakehouse_lib.flow import pipeline
from lakehouse_lib.intake import landing
from lakehouse_lib.layers import loads, staging
from lakehouse_lib.storage import commits

if __name__ == "__main__":
    settings = config.load(json.loads(sys.argv[1]))
    chance = random.Random(sys.argv[2])

    def pausing(module, name):
        """Wait before a step, so that another process may get ahead."""
        honest = getattr(module, name)

        def later(*arguments, **named):
            time.sleep(chance.choice([0, 0, 0.05, 0.2, 0.6]))
            return honest(*arguments, **named)

        setattr(module, name, later)

    for module, name in ((loads, "next_load"), (landing, "list_files"), (landing, "settle"), (staging, "read"),
                         (commits, "append"), (commits, "mark"), (commits, "upsert_ops")):  # fmt: skip
        pausing(module, name)
    print("ready", flush=True)
    for _ in sys.stdin:
        result = pipeline.run(settings, "bronze", progress=lambda line: None)
        print(json.dumps(result.problems), flush=True)
    session.release(settings)
