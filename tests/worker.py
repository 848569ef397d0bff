"""Work in a separate process that tests kill: ``python tests/worker.py SETTINGS_JSON [WORK TABLE]``.

WORK is ``run`` (the default), ``replay`` of a table's quarantine, or ``archive``: its rows are
archived and restored in an endless loop.
"""

import json
import sys

from lakehouse_lib import config
from lakehouse_lib.care import maintenance, quarantine
from lakehouse_lib.engines import session
from lakehouse_lib.errors import LakehouseError
from lakehouse_lib.flow import pipeline
from lakehouse_lib.model import tables
from lakehouse_lib.storage import archive

if __name__ == "__main__":
    settings = config.load(json.loads(sys.argv[1]))
    work, *names = sys.argv[2:] or ["run"]
    try:
        if work == "replay":
            quarantine.replay(settings, *names)
        elif work == "archive":
            table = tables.get(settings, *names)
            print("ready", flush=True)
            while True:
                archive.restore(settings, table)
                maintenance.retention(settings, table)
        else:
            pipeline.run(settings).check()
    except LakehouseError as error:
        sys.exit(str(error))
    finally:
        session.release(settings)
