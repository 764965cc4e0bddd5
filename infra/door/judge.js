// The server answers 500 to JSON that it can't read, as it does when it fails itself. Told apart here before another
// server is asked, for asking them all makes one broken request the work of many.

const HEADERS = ['Content-Type', 'Inference-Header-Content-Length'];

async function answer(r) {
    const wrong = fault(r);
    if (wrong) {
        r.headersOut['Content-Type'] = 'application/json';
        r.return(400, JSON.stringify({error: wrong}));
        return;
    }
    const reply = await r.subrequest('/judge' + r.uri, {method: r.method});
    const unreadable = reply.status == 500 && /^\{"error":"(Unable|failed) to parse /.test(reply.responseText);
    HEADERS.filter((name) => reply.headersOut[name]).forEach((name) => {
        r.headersOut[name] = reply.headersOut[name];
    });
    r.return(unreadable ? 400 : reply.status, reply.responseBuffer);
}

// Returns what is wrong with a request's JSON, or '' where that must be asked of a server: of a body that is on the disk.
function fault(r) {
    let body;
    try {
        body = r.requestBuffer;
    } catch (error) {
        return '';
    }
    if (!body) {
        return '';
    }
    const length = r.headersIn['Inference-Header-Content-Length'];
    try {
        const asked = JSON.parse((length ? body.slice(0, Number(length)) : body).toString());
        return Array.isArray(asked.inputs) ? '' : "the JSON lacks 'inputs', a list";
    } catch (error) {
        return 'this is no JSON that can be read: ' + error.message;
    }
}

// Over gRPC an error is a header, and bytes that are no message are called an error of the server's own.
function status(r) {
    if (r.headersOut['grpc-message'] == 'Unable to parse request') {
        r.headersOut['grpc-status'] = '3';
    }
}

// Tells whether a body is longer than is taken, as '1' or ''.
function is_beyond(r) {
    return Number(r.headersIn['Content-Length']) > Number(r.variables.max_body_mb) * 1048576 ? '1' : '';
}

// Says what a location set as `$code` and `$why`.
function refuse(r) {
    r.headersOut['Content-Type'] = 'application/json';
    r.return(Number(r.variables.code), JSON.stringify({error: r.variables.why}));
}

function empty(r) {
    r.return(204);
}

function hold(r) {
    r.headersOut['Retry-After'] = '1';
    r.headersOut['Content-Type'] = 'application/json';
    r.return(429, JSON.stringify({error: excess(r)}));
}

function hold_rpc(r) {
    r.headersOut['grpc-status'] = '8';
    r.headersOut['grpc-message'] = excess(r);
    r.return(204);
}

function excess(r) {
    if (r.variables.limit_req_status == 'REJECTED') {
        return `this key asks more than ${r.variables.max_requests_per_s} times a second; ask less often`;
    }
    return `this key has ${r.variables.max_in_flight} requests under way, as many as it may; wait for their answers`;
}

export default {answer, status, is_beyond, refuse, empty, hold, hold_rpc};
