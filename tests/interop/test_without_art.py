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


def test_an_own_script_of_that_name_is_named(tmp_path):
    (tmp_path / "art.py").write_text("")
    (tmp_path / "main.py").write_text("import snode.interop.art\n")
    run = subprocess.run(
        [sys.executable, str(tmp_path / "main.py")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert f"{tmp_path / 'art.py'} stands before it" in last
    assert last.endswith("rename that file")
