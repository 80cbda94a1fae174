-- How often the owner has retried the delivery after its end. Each time, it gets another job.
ALTER TABLE delivery ADD COLUMN retries BIGINT NOT NULL DEFAULT 0;
