-- Mails that waited for another attempt when `waits_for` was added.

-- Nobody knows the reason of their wait, so they count as waiting for the mail server: its return makes them due, and operators
-- can retry them. After several attempts, the latest may have ended with its process, and the mail server may have the mail: such
-- a mail waits for its time. The host that migrates the database is the only one, so none of them is being sent.
--
-- The complete meaning of null in `waits_for`: no attempt was made yet, one runs, or one ended with its process.
UPDATE mail_queue SET waits_for = 'server'
    WHERE state = 'waiting' AND attempts = 1 AND reason IS NOT NULL AND waits_for IS NULL;
