-- Why a mail waits for another attempt.

-- 'server': the mail server was away at the latest attempt. 'retry': the latest attempt failed otherwise, or the mail server is
-- back. Null: no attempt was made yet, or one runs.
ALTER TABLE mail_queue ADD COLUMN waits_for text;
-- The attempts in which the mail server may have taken the mail and did not say so.
ALTER TABLE mail_queue ADD COLUMN unconfirmed bigint NOT NULL DEFAULT 0;

CREATE INDEX mail_queue_server ON mail_queue (id) WHERE state = 'waiting' AND waits_for = 'server';
