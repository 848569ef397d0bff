"""One run in a process of its own: ``python tests/worker.py SETTINGS_JSON``; tests kill it.

With a table's name behind it, the replay of its quarantine instead.
"""

import json
import sys

from lakehouse_lib import config, pipeline, quarantine, session
from lakehouse_lib.errors import LakehouseError

if __name__ == "__main__":
    settings = config.load(json.loads(sys.argv[1]))
    try:
        if len(sys.argv) > 2:
            quarantine.replay(settings, sys.argv[2])
        else:
            pipeline.run(settings).check()
    except LakehouseError as error:
        sys.exit(str(error))
    finally:
        session.release(settings)
