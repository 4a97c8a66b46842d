"""Recurrent networks and embeddings."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .constructs import (
    Construct,
    Table,
    Wired,
    entry,
    linear,
    noise,
    sequences,
    tokens,
    vectors,
    weight,
    whole,
)


def _recurrent(make: object) -> Construct:
    return sequences(lambda n, h: n.layer(h)[0], layer=make)


RECURRENT: Table = {
    "lstm": _recurrent(partial(nn.LSTM, 8, 6, batch_first=True)),
    "lstm_sequence_first": _recurrent(partial(nn.LSTM, 8, 6)),
    "lstm_two_layers": _recurrent(partial(nn.LSTM, 8, 6, 2, batch_first=True, dropout=0.5)),
    "lstm_bidirectional": _recurrent(partial(nn.LSTM, 8, 3, 2, batch_first=True, bidirectional=True)),
    "lstm_projected": _recurrent(partial(nn.LSTM, 8, 6, proj_size=4, batch_first=True)),
    "lstm_without_bias": _recurrent(partial(nn.LSTM, 8, 6, bias=False, batch_first=True)),
    "lstm_given_states": sequences(
        lambda n, h: n.layer(h, (torch.ones(1, 4, 6), n.cell.expand(1, 4, 6)))[0],
        layer=partial(nn.LSTM, 8, 6, batch_first=True),
        cell=weight(1, 1, 6),
    ),
    "lstm_last_states": sequences(
        lambda n, h: (lambda y, s: torch.cat([y[:, -1], s[0][0], s[1][0]], -1)[:, None])(*n.layer(h)),
        layer=partial(nn.LSTM, 8, 6, batch_first=True),
    ),
    "lstm_used_twice": sequences(
        lambda n, h: n.layer(n.layer(h)[0])[0], layer=partial(nn.LSTM, 8, 8, batch_first=True)
    ),
    "gru": _recurrent(partial(nn.GRU, 8, 6, batch_first=True)),
    "gru_of_a_learned_state": sequences(
        lambda n, h: n.layer(h, n.state.expand(1, 4, 6).contiguous())[0],
        layer=partial(nn.GRU, 8, 6, batch_first=True),
        state=weight(1, 1, 6),
    ),
    "gru_bidirectional": _recurrent(partial(nn.GRU, 8, 3, batch_first=True, bidirectional=True)),
    "gru_unbatched": sequences(lambda n, h: n.layer(h[0])[0], layer=partial(nn.GRU, 8, 6)),
    "rnn_tanh": _recurrent(partial(nn.RNN, 8, 6, 2, batch_first=True)),
    "rnn_relu": _recurrent(partial(nn.RNN, 8, 6, nonlinearity="relu", batch_first=True)),
    "states_of_an_encoder": sequences(
        lambda n, h: n.decoder(h[:, :2], n.encoder(h)[1])[0],
        encoder=partial(nn.GRU, 8, 6, batch_first=True),
        decoder=partial(nn.GRU, 8, 6, batch_first=True),
    ),
    "lstm_cell": vectors(lambda n, h: torch.cat(n.cell(h), 1), cell=partial(nn.LSTMCell, 8, 6)),
    "gru_cell": vectors(lambda n, h: n.cell(h, torch.tanh(h)), cell=partial(nn.GRUCell, 8, 8)),
    "rnn_cell": vectors(
        lambda n, h: n.cell(h, n.cell(h)), cell=partial(nn.RNNCell, 8, 8, nonlinearity="relu")
    ),
}


@entry(RECURRENT, sequences, cell=partial(nn.LSTMCell, 8, 6))
def lstm_cell_in_a_loop(n: Wired, h: Tensor) -> Tensor:
    state, outputs = None, []
    for step in h.unbind(1):
        state = n.cell(step, state)
        outputs.append(state[0])
    return torch.stack(outputs, 1)


@entry(RECURRENT, sequences, update=linear(16, 8), candidate=linear(16, 8))
def gates_by_hand(n: Wired, h: Tensor) -> Tensor:
    state = torch.zeros(4, 8)
    for step in h.unbind(1):
        update = torch.sigmoid(n.update(torch.cat([step, state], 1)))
        state = update * state + (1 - update) * torch.tanh(n.candidate(torch.cat([step, state], 1)))
    return state[:, None]


def _embedded(middle: object, inputs: object = None, **options: object) -> Construct:
    """Tokens of shape (4, 5), 11 kinds, to activations of 8 channels, to a layer."""
    return whole(
        lambda n, t: n.last(torch.tanh(middle(n, t))), inputs or tokens(4, 5), last=linear(8, 3), **options
    )


EMBEDDINGS: Table = {
    "plain": _embedded(lambda n, t: n.table(t), table=partial(nn.Embedding, 11, 8)),
    "padding": _embedded(lambda n, t: n.table(t), table=partial(nn.Embedding, 11, 8, padding_idx=0)),
    "max_norm": _embedded(lambda n, t: n.table(t), table=partial(nn.Embedding, 11, 8, max_norm=1.0)),
    "sparse": _embedded(lambda n, t: n.table(t), table=partial(nn.Embedding, 11, 8, sparse=True)),
    "scaled_by_frequency": _embedded(
        lambda n, t: n.table(t), table=partial(nn.Embedding, 11, 8, scale_grad_by_freq=True)
    ),
    "indexed_parameter": _embedded(lambda n, t: n.table[t], table=weight(11, 8)),
    "selected_parameter": _embedded(lambda n, t: n.table.index_select(0, t[0]), table=weight(11, 8)),
    "one_hot": _embedded(lambda n, t: F.one_hot(t, 11).double() @ n.table, table=weight(11, 8)),
    "positions_added": _embedded(
        lambda n, t: n.table(t) + n.positions(torch.arange(t.shape[1])),
        table=partial(nn.Embedding, 11, 8),
        positions=partial(nn.Embedding, 9, 8),
    ),
    "factorized": _embedded(
        lambda n, t: n.up(n.table(t)), table=partial(nn.Embedding, 11, 3), up=linear(3, 8, bias=False)
    ),
    "relative_positions": sequences(
        lambda n, h: (
            (h @ h.mT + n.bias(torch.arange(5)[:, None] - torch.arange(5) + 4).squeeze(-1)).softmax(-1) @ h
        ),
        bias=partial(nn.Embedding, 9, 1),
    ),
    **{
        f"bag_{mode}": _embedded(lambda n, t: n.bag(t), bag=partial(nn.EmbeddingBag, 11, 8, mode=mode))
        for mode in ("sum", "mean", "max")
    },
    "bag_with_offsets": _embedded(
        lambda n, t: n.bag(t, torch.tensor([0, 3, 4])), tokens(10), bag=partial(nn.EmbeddingBag, 11, 8)
    ),
    "bag_with_weights": _embedded(
        lambda n, t: n.bag(t, per_sample_weights=t / 7), bag=partial(nn.EmbeddingBag, 11, 8, mode="sum")
    ),
    "tied_to_the_output": whole(
        lambda n, t: F.linear(torch.tanh(n.mix(n.table(t))), n.table.weight),
        tokens(4, 5),
        table=partial(nn.Embedding, 11, 8),
        mix=linear(8, 8),
    ),
    "features_of_two_kinds": whole(
        lambda n, t, x: n.last(torch.relu(torch.cat([n.table(t).flatten(1), n.dense(x)], 1))),
        lambda: (torch.randint(11, (4, 2)), torch.randn(4, 7)),
        table=partial(nn.Embedding, 11, 3),
        dense=linear(7, 2),
        last=linear(8, 3),
    ),
    "graph_edges": whole(
        lambda n, x, edges: n.last(
            torch.zeros(6, 8).index_add(0, edges[1], torch.relu(n.first(x))[edges[0]])
        ),
        lambda: (torch.randn(6, 7), torch.randint(6, (2, 9))),
        first=linear(7, 8),
        last=linear(8, 3),
    ),
    "class_token": sequences(
        lambda n, h: torch.cat([n.token.expand(4, -1, -1), h], 1), token=weight(1, 1, 8)
    ),
    "sinusoidal_buffer": sequences(lambda n, h: h + n.table[:5], table=noise(9, 8)),
}
