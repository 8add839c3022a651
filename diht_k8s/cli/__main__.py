"""`python -m diht_k8s.cli` is `diht`."""

from __future__ import annotations

import sys

from diht_k8s.cli.main import main

sys.exit(main())
