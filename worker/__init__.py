"""The processes that run jobs: a Celery worker that supervises one spawned child a job."""
