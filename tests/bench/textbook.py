"""The job as a textbook has it: PySpark and Delta with their defaults. ``python textbook.py LANDING OUT``."""

import json
import sys

from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F

landing, out = sys.argv[1:]
builder = (
    SparkSession.builder.config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .config("spark.sql.session.timeZone", "UTC")
)
spark = configure_spark_with_delta_pip(builder).getOrCreate()


def save(frame, name, by=None):
    writer = frame.write.format("delta").mode("overwrite")
    (writer.partitionBy(by) if by else writer).save(f"{out}/{name}")
    return spark.read.format("delta").load(f"{out}/{name}")


at = F.col("click_timestamp").cast("timestamp")
clicks = spark.read.parquet(landing).withColumn("click_timestamp", at).withColumn("click_date", F.to_date(at))
bronze = save(clicks.withColumn("load_timestamp", F.current_timestamp()), "bronze", "click_date")
silver = save(bronze.dropDuplicates(["click_id"]), "silver", "click_date")
order = Window.partitionBy("user_id").orderBy("click_timestamp", "click_id")
pause = F.unix_micros("click_timestamp") - F.lag(F.unix_micros("click_timestamp")).over(order)
new = F.coalesce((pause > 30 * 60 * 1_000_000).cast("int"), F.lit(1))
numbered = silver.withColumn("_new", new).withColumn("_n", F.sum("_new").over(order))
sessions = save(
    numbered.groupBy("user_id", "_n").agg(
        F.min("click_timestamp").alias("session_start_time"), F.max("click_timestamp").alias("session_end_time"),
        F.count("*").alias("click_count"), F.avg("response_time_ms").alias("avg_response_time_ms"),
        F.sum((F.col("status_code") >= 400).cast("int")).alias("error_count"),
    ).withColumn("session_date", F.to_date("session_start_time")),
    "sessions", "session_date",
)  # fmt: skip
hourly = save(
    silver.groupBy(F.date_trunc("hour", "click_timestamp").alias("hour")).agg(
        F.count("*").alias("total_clicks"), F.countDistinct("user_id").alias("unique_users"),
        F.percentile("response_time_ms", 0.95).alias("p95_response_time_ms"),
        F.sum((F.col("status_code") >= 400).cast("int")).alias("error_count"),
    ),
    "hourly",
)  # fmt: skip
save(
    sessions.groupBy("session_date").agg(
        F.count("*").alias("total_sessions"), F.countDistinct("user_id").alias("total_users"),
        F.avg((F.col("click_count") == 1).cast("int")).alias("bounce_rate"),
    ),
    "daily",
)  # fmt: skip
sums = hourly.agg(F.sum("total_clicks"), F.sum("error_count"), F.count("*")).first()
print(json.dumps({"clicks": sums[0], "sessions": sessions.count(), "errors": sums[1], "hours": sums[2]}))
