package client;

import io.grpc.Metadata;
import io.grpc.Status;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;

/** What comes back of one call: the reply or a refusal, and the metadata before and after it. */
record Answer<R>(R reply, Status status, Metadata headers, Metadata trailers) {

    /** The reply, where there must be one. */
    R ok() {
        if (!status.isOk()) {
            throw new Surprise("refused: " + this);
        }
        return reply;
    }

    /** Which of the contract's errors it is; null for what was refused before the service has seen it. */
    String errorCode() {
        return trailers.get(Caller.key("error-code"));
    }

    String header(String name) {
        return headers.get(Caller.key(name));
    }

    String trailer(String name) {
        return trailers.get(Caller.key(name));
    }

    boolean isReplay() {
        return "true".equals(header("idempotency-replayed"));
    }

    /** Wait for as long as a refusal says. */
    void waitAsTold() {
        String seconds = trailer("retry-after");
        LockSupport.parkNanos(TimeUnit.SECONDS.toNanos(seconds == null ? 1 : Long.parseLong(seconds)));
    }

    boolean isRefused(Status.Code code, String errorCode) {
        return status.getCode() == code && errorCode.equals(errorCode());
    }
}
