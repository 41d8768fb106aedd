package client;

import wallet.v1.Wallet.AmountRequest;
import wallet.v1.Wallet.BalanceRequest;
import wallet.v1.Wallet.JobRequest;
import wallet.v1.Wallet.TransactionsRequest;
import wallet.v1.Wallet.TransferRequest;

/** Requests, in short. */
final class Requests {
    static final BalanceRequest BALANCE = BalanceRequest.getDefaultInstance();

    private Requests() {}

    static AmountRequest amount(long cents) {
        return AmountRequest.newBuilder().setAmount(cents).build();
    }

    static TransferRequest pay(long payee, long cents) {
        return TransferRequest.newBuilder().setDestinationUserId(payee).setAmount(cents).build();
    }

    static JobRequest job(long id) {
        return JobRequest.newBuilder().setJobId(id).build();
    }

    static TransactionsRequest.Builder entries(int pageSize) {
        return TransactionsRequest.newBuilder().setPageSize(pageSize);
    }
}
