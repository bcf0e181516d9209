-- +goose Up
CREATE TABLE orders (
    id              uuid        PRIMARY KEY, -- UUID version 7, which is ordered by time
    customer_id     text        NOT NULL,
    status          text        NOT NULL CHECK (status IN ('pending', 'confirmed', 'rejected', 'cancelling', 'cancelled')),
    reason          text        NOT NULL DEFAULT '',
    total           bigint      NOT NULL CHECK (total >= 0),
    currency        char(3)     NOT NULL,
    version         bigint      NOT NULL DEFAULT 1,
    idempotency_key text        UNIQUE,
    fingerprint     bytea       NOT NULL,
    held_until      timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE order_items (
    order_id   uuid    NOT NULL REFERENCES orders (id) ON DELETE CASCADE,
    line       integer NOT NULL,
    sku        text    NOT NULL,
    quantity   integer NOT NULL CHECK (quantity > 0),
    unit_price bigint  NOT NULL CHECK (unit_price >= 0),
    PRIMARY KEY (order_id, line)
);

-- Only few orders are unsettled, so this index stays small.
CREATE INDEX orders_unsettled ON orders (held_until) WHERE status IN ('pending', 'cancelling');

-- +goose Down
DROP TABLE order_items;
DROP TABLE orders;
