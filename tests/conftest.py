"""One thread for the tests' own arithmetic: tensors are small, and two threads on busy cores cost five times as much.

Workers of a run set their own number of threads.
"""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before torch is imported
