/** The device's cameras: one at a time, its newest frame, front or back. */

const SIZE = { width: { ideal: 960 }, height: { ideal: 720 } };

/** What the user can do about it, by the name of the browser's error. */
const REASONS: Record<string, string> = {
  NotFoundError: "There is no camera here; choose a picture instead.",
  OverconstrainedError: "There is no other camera here.",
  NotAllowedError:
    "The camera is not allowed for this page; allow it in the browser's settings of this site and press Camera again.",
  NotReadableError: "The camera is in use by another program; close that and press Camera again.",
};
const INSECURE =
  "Browsers give cameras only to secure pages, and this one came by http; serve it with `edge-demo web --https`, or choose a picture.";

export interface View {
  /** Seen from the user's side, as in a mirror. */
  mirrored: boolean;
  /** There is another camera to turn to. */
  several: boolean;
}

let stream: MediaStream | undefined;

export const running = (): boolean => stream !== undefined;

/** Whether the camera may be used without asking. */
export async function allowed(): Promise<boolean> {
  try {
    return (
      (await navigator.permissions.query({ name: "camera" as PermissionName })).state === "granted"
    );
  } catch {
    return false; // a browser that does not tell
  }
}

/** Plays a camera in the element, the back one if there is a choice; an Error says in one sentence why not. */
export async function start(
  video: HTMLVideoElement,
  which: MediaTrackConstraints = { facingMode: "environment" },
): Promise<View> {
  const devices = navigator.mediaDevices as MediaDevices | undefined;
  if (!devices) throw new Error(isSecureContext ? REASONS.NotFoundError : INSECURE);
  stop(video); // many phones have one camera open at a time
  try {
    stream = await devices.getUserMedia({ video: { ...SIZE, ...which } });
    video.srcObject = stream;
    await video.play();
  } catch (error) {
    stop(video);
    const { name, message } = error as DOMException;
    throw new Error(REASONS[name] ?? `The camera failed: ${message || name}.`);
  }
  const { facingMode } = stream.getVideoTracks()[0].getSettings();
  return { mirrored: facingMode !== "environment", several: (await cameras()).length > 1 };
}

/** How to start the camera of the other side, or where sides are unknown the next one. */
export function other(): typeof start {
  const now = stream!.getVideoTracks()[0].getSettings();
  return async (video) => {
    if (now.facingMode) {
      const facingMode = now.facingMode === "environment" ? "user" : "environment";
      return start(video, { facingMode: { exact: facingMode } });
    }
    const ids = (await cameras()).map(({ deviceId }) => deviceId);
    const next = (ids.indexOf(now.deviceId!) + 1) % ids.length;
    return start(video, { deviceId: { exact: ids[next] } });
  };
}

async function cameras(): Promise<MediaDeviceInfo[]> {
  const devices = await navigator.mediaDevices.enumerateDevices();
  return devices.filter(({ kind }) => kind === "videoinput");
}

export function stop(video: HTMLVideoElement): void {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = undefined;
  video.srcObject = null;
}

/**
 * Hands each newest frame to `look` and waits for it, until the camera stops.
 *
 * gone: is called when the camera goes away by itself.
 */
export function watch(
  video: HTMLVideoElement,
  look: (video: HTMLVideoElement) => Promise<void>,
  gone: () => void,
): void {
  const mine = stream;
  const next = async () => {
    if (stream !== mine) return;
    await look(video);
    video.requestVideoFrameCallback(next);
  };
  video.requestVideoFrameCallback(next);
  mine?.getVideoTracks()[0].addEventListener("ended", () => stream === mine && gone());
}
