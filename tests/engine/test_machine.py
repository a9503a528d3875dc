"""What the machine is asked for."""

import os
import subprocess
import sys


def test_waiting_threads_leave_the_cores_to_others() -> None:
    """As OpenMP itself says, once the array engine is there."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", "import vitreous, torch"],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "OMP_DISPLAY_ENV": "TRUE"},
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
