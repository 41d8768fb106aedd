package client;

import io.grpc.Channel;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.health.v1.HealthGrpc;
import io.grpc.reflection.v1alpha.ServerReflectionGrpc;
import io.grpc.reflection.v1alpha.ServerReflectionRequest;
import io.grpc.reflection.v1alpha.ServerReflectionResponse;
import io.grpc.reflection.v1alpha.ServiceResponse;
import io.grpc.stub.StreamObserver;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import wallet.v1.WalletServiceGrpc;

/** What every gRPC service may be asked for. */
final class Standards {
    private static final int DEADLINE_S = 30;
    private static final Set<String> SERVICES = Set.of(
            WalletServiceGrpc.SERVICE_NAME, HealthGrpc.SERVICE_NAME, ServerReflectionGrpc.SERVICE_NAME);

    private Standards() {}

    static void check(Channel channel) {
        for (String service : new String[] {"", WalletServiceGrpc.SERVICE_NAME}) {
            ServingStatus health = health(channel, service);
            Report.check("health: SERVING for '" + service + "'", health == ServingStatus.SERVING, health);
        }
        Set<String> services = services(channel);
        Report.check("reflection: lists all services", services.containsAll(SERVICES), services);
    }

    private static ServingStatus health(Channel channel, String service) {
        return HealthGrpc.newBlockingStub(channel)
                .withWaitForReady()
                .withDeadlineAfter(DEADLINE_S, TimeUnit.SECONDS)
                .check(HealthCheckRequest.newBuilder().setService(service).build())
                .getStatus();
    }

    private static Set<String> services(Channel channel) {
        var told = new CompletableFuture<ServerReflectionResponse>();
        var requests = ServerReflectionGrpc.newStub(channel)
                .withDeadlineAfter(DEADLINE_S, TimeUnit.SECONDS)
                .serverReflectionInfo(first(told));
        requests.onNext(ServerReflectionRequest.newBuilder().setListServices("").build());
        requests.onCompleted();
        return told.join().getListServicesResponse().getServiceList().stream()
                .map(ServiceResponse::getName)
                .collect(Collectors.toSet());
    }

    /** An observer that keeps the first that comes, or why nothing did. */
    private static <T> StreamObserver<T> first(CompletableFuture<T> told) {
        return new StreamObserver<>() {
            @Override
            public void onNext(T value) {
                told.complete(value);
            }

            @Override
            public void onError(Throwable error) {
                told.completeExceptionally(error);
            }

            @Override
            public void onCompleted() {
                told.completeExceptionally(new Surprise("the stream ended without an answer"));
            }
        };
    }
}
