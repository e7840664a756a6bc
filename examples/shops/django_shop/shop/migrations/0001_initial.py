from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.CharField(primary_key=True, max_length=40, serialize=False)),
                ("cents", models.IntegerField()),
                ("invoices", models.IntegerField(default=0)),
            ],
        ),
    )
