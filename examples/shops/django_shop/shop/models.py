from django.db import models


class Order(models.Model):
    id = models.CharField(primary_key=True, max_length=40)
    cents = models.IntegerField()
    invoices = models.IntegerField(default=0)

    def __str__(self) -> str:
        return self.id
