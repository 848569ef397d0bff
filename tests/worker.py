"""One run in a process of its own: ``python tests/worker.py SETTINGS_JSON``; tests kill it."""

import json
import sys

from lakehouse_lib import config, pipeline, session
from lakehouse_lib.errors import LakehouseError

if __name__ == "__main__":
    settings = config.load(json.loads(sys.argv[1]))
    try:
        pipeline.run(settings).check()
    except LakehouseError as error:
        sys.exit(str(error))
    finally:
        session.release(settings)
