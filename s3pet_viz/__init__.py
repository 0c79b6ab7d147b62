"""s3pet_viz: search where PET modules belong in a pretrained transformer, and see why."""
