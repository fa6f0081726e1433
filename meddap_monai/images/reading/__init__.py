"""One door to ultrasound files: DICOM, PNG, JPEG, TIFF, BMP, NIfTI."""
