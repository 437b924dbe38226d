"""A custom user model without staff, groups, permissions or a column for `is_active`."""

import uuid
from typing import ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models


class Person(AbstractBaseUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.CharField(max_length=100, unique=True)

    objects: ClassVar[BaseUserManager["Person"]] = BaseUserManager()

    USERNAME_FIELD = "email"

    class Meta:
        app_label = "own_user"


class Member(Person):
    class Meta:
        app_label = "own_user"
        proxy = True


class Employee(Person):
    room = models.CharField(max_length=10)

    class Meta:
        app_label = "own_user"
