"""A shop: Django.  An order and its event are committed together, or not at all.

python manage.py migrate
python manage.py runserver          # the shop
python manage.py postbus worker     # what happens after an order
"""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    execute_from_command_line(sys.argv)
