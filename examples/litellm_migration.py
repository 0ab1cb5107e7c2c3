"""From LiteLLM's proxy to Pointsman: the same file, the same keys, one URL.

    OPENAI_API_KEY=sk-… LITELLM_MASTER_KEY=sk-… python examples/litellm_migration.py examples/litellm.yaml

It checks the file as `pointsman check` does, says what a gateway makes of each part, and prints the commands that move
keys, teams, budgets and spend. Nothing is changed.
"""

import subprocess
import sys
from pathlib import Path

FILE = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("litellm.yaml"))
POINTSMAN = str(Path(sys.executable).with_name("pointsman"))

checked = subprocess.run([POINTSMAN, "check", str(FILE)], capture_output=True, text=True, check=False)
print(checked.stdout + checked.stderr)
if checked.returncode:
    sys.exit("Mend what is named above, in your own file, and run this again.")
print(f"""What is left to do, in this order:

  pointsman serve --config {FILE} --port 4000       # beside the proxy, on a port of its own
  pointsman import litellm postgresql://…           # a plan: keys, teams, budgets, what was spent
  pointsman import litellm postgresql://… --apply   # carry it out
  # then move the URL of your clients; their keys stay the same
""")
