"""``python -m s3pet_viz`` is ``s3pet``."""

from s3pet_viz.cli import main

main()
