"""A database backend that the log does not support, like those for MySQL, MariaDB and Oracle. It is SQLite's inside."""
