"""``python -m meddap_monai.cli``: what the launchers of several processes start."""

import sys

from meddap_monai.cli.main import main

sys.exit(main())
