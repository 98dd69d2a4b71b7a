"""Files and folders that are complete or absent, strict JSON, images, image records, HTML."""
