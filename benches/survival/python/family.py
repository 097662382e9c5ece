"""An adapter that has a process in a session of its own, as libraries have that start servers."""

import subprocess

GRANDCHILD = subprocess.Popen(["sleep", "600"], start_new_session=True)
