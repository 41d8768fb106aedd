package client;

import io.grpc.Channel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.MetadataUtils;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Function;
import wallet.v1.Wallet.Job;
import wallet.v1.Wallet.JobRequest;
import wallet.v1.WalletServiceGrpc;
import wallet.v1.WalletServiceGrpc.WalletServiceBlockingStub;

/** Somebody who calls, with the metadata that goes with each call. */
record Caller(Channel channel, Metadata sent) {
    private static final int DEADLINE_S = 30;

    /** A user by his {@code authorization}: an id in development, else {@code Bearer} and a token. */
    static Caller of(Channel channel, String credentials) {
        return new Caller(channel, new Metadata()).with("authorization", credentials);
    }

    /** The same caller, who says one thing more. */
    Caller with(String name, String value) {
        Metadata more = new Metadata();
        more.merge(sent);
        more.put(key(name), value);
        return new Caller(channel, more);
    }

    /** The answer to one call, whatever it is. */
    <R> Answer<R> ask(Function<WalletServiceBlockingStub, R> call) {
        return ask(call, DEADLINE_S * 1_000L);
    }

    <R> Answer<R> ask(Function<WalletServiceBlockingStub, R> call, long deadlineMs) {
        var headers = new AtomicReference<Metadata>();
        var trailers = new AtomicReference<Metadata>();
        var stub = stub()
                .withInterceptors(MetadataUtils.newCaptureMetadataInterceptor(headers, trailers))
                .withDeadlineAfter(deadlineMs, TimeUnit.MILLISECONDS);
        R reply = null;
        Status status = Status.OK;
        try {
            reply = call.apply(stub);
        } catch (StatusRuntimeException error) {
            status = error.getStatus();
        }
        return new Answer<>(reply, status, orNone(headers.get()), orNone(trailers.get()));
    }

    /** All that is told of a job, to the end of the stream. The service may end it early with UNAVAILABLE. */
    Answer<List<Job>> watch(long jobId) {
        return ask(stub -> {
            List<Job> told = new ArrayList<>();
            stub.watchJob(JobRequest.newBuilder().setJobId(jobId).build()).forEachRemaining(told::add);
            return told;
        });
    }

    WalletServiceBlockingStub stub() {
        return WalletServiceGrpc.newBlockingStub(channel)
                .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(sent));
    }

    static Metadata.Key<String> key(String name) {
        return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
    }

    private static Metadata orNone(Metadata metadata) {
        return metadata == null ? new Metadata() : metadata;
    }
}
