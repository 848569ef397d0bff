#!/usr/bin/env bash
# For `lakehouse run --notify deploy/notify.sh`: gets the summary as JSON, and sends it on as one line.
# NOTIFY_URL is a webhook that takes {"text": …}; without one the line goes to the system's log.
set -euo pipefail
text=$(python3 -c '
import json, sys
told = json.load(sys.stdin)
worst = told["findings"][0] if told["findings"] else None
line = "Lakehouse {}: {} (was {})".format(told["run_id"], told["verdict"], told["verdict_before"])
line += " · run failed: " + told["failure"].splitlines()[0] if told["failure"] else ""
print(line + (" · {table}: {text} · {command}".format(**worst) if worst else ""))
')
if [ -n "${NOTIFY_URL:-}" ]; then
  python3 -c 'import json, sys; print(json.dumps({"text": sys.argv[1]}))' "$text" |
    curl --fail --silent --show-error --max-time 20 -H 'Content-Type: application/json' --data @- "$NOTIFY_URL"
else
  logger --tag lakehouse -- "$text" 2> /dev/null || echo "$text"
fi
