"""What the worked examples share: a Preceptor that lives as long as one of them, runs that are watched, what is shown.

    command.py   what its command line takes, how it ends
    stack.py     start Preceptor and more teachers, register them
    apart.py     the same on several hosts: the control plane on one, a worker on each of the others
    hosts.py     hosts on one machine, apart but for their links
    wire.py      those links: how slow, how thin, cut or whole, and what has passed
    runs.py      start a run, watch it, get its model
    judging.py   right or wrong on held-out questions, for any model folder
    showing.py   tables and plots of shares with their 95% intervals

An example is a package beside this one, whose `__main__.py` is its one command: `scripts/example NAME`.
"""
