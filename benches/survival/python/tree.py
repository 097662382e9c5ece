"""Five processes that are hard to end, each named so that it can be told apart in /proc.

They end by themselves after ten minutes, the stopped one aside, in case nobody else sees to it.
"""

import os
import signal
import sys
import time

LIFE_S = 600


def play(name, before=lambda: None):
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write(name)
    before()
    time.sleep(LIFE_S)
    os._exit(0)


def silent():
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (1, 2):
        os.dup2(null, standard)


def member(name, before=lambda: None, quiet=True):
    if os.fork() == 0:
        if quiet:
            silent()
        play(name, before)


def daemon():
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            silent()
            play("t-daemon")
        os._exit(0)
    os.waitpid(child, 0)


# Ten of these beside each other are the children of an orderly stop, which obey.
if sys.argv[1:] == ["plain"]:
    play("t-plain")
member("t-group")
member("t-stopped", lambda: os.kill(os.getpid(), signal.SIGSTOP))
member("t-stdout", quiet=False)
daemon()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
play("t-ignorer")
