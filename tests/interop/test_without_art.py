"""What happens where ART is not installed."""

import subprocess
import sys


def test_the_extra_is_named():
    code = (
        "import sys\n"
        "sys.modules['art'] = None\n"  # as if it were missing
        "import snode, snode.interop\n"
        "import snode.interop.art\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: snode.interop.art needs")
    assert 'pip install "snode[art]"' in last
