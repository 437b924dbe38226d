"""Find out what is wrong with a site: `manage.py streams_doctor` prints the findings.

`check_site()` in `site` looks at the site from inside: settings, application, database, notifier, processes.
`check_stream()` in `stream` opens a stream as a browser does, through every proxy that is in between.

Both yield findings. They raise no exception if the site is broken, and everything that they wait for has a time limit.
"""
