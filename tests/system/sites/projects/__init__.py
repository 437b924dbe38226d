"""Settings of sites that use another package or a feature of Django. Each module adds to `base` what its name says."""
