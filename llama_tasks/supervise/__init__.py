"""What stands around the training loop; imported file by file, because some of it must stay light.

preflight.py   the heaviest batch, before step 1            watch.py       log, validation, best weights, checkpoints
resume.py      which changes a resumed run bears            interrupt.py   Ctrl-C and SIGTERM
settling.py    what a recipe leaves open, written out       progress.py    the line that a person sees
allocator.py   free memory given back                       introduction.py   what a run says of itself before step 1
"""
